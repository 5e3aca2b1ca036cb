// Package suite makes `go test ./...` of this module run the tests of the module
// usher/integration too. That module stands by itself, so that what only its
// tests import, such as clients of Docker, is no dependency of Usher.
package suite
