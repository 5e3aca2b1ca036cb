//go:build !race

package limiter

const defaultSeeds = 100
