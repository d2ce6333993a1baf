//go:build race

package functions_test

// raceDetector says that this run is watched, and some ten times slower.
const raceDetector = true
