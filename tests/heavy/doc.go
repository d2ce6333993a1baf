// Package heavy tests `ray-executor serve` under callers who mean to take its
// memory, in the 256 MiB that a function's pod has. HEAVY_FIGURES=1 prints what
// each of them takes alone, of the program that HEAVY_BINARY names: the table
// of docs/limits.md.
package heavy
