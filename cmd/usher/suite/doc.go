// Package suite makes `go test ./...` of this module run the tests of the module
// usher/integration too. The integration tests are a module of their own, so that
// modules that only they import, such as Docker's client, are no dependencies of Usher.
package suite
