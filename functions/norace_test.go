//go:build !race

package functions_test

// raceDetector says that this run is not watched.
const raceDetector = false
