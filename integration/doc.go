// Package integration tests the built binary as a black box: several replicas
// behind a real HAProxy that count in a real Redis, clients with a SOCKS client
// of the tests' own (a second opinion on package socks), the programs that
// docs/compatibility.md lists, and the compose demo as it is shipped.
//
// Most tests run processes on loopback and need redis-server and haproxy, those
// with programs of others the packages that the page names; those with
// containers need a Docker engine and the images that the compose file names.
// What is missing skips a test and is named; with CI=true it is a failure. With
// -short the tests with containers are left out. -soak=10m keeps the soak test's
// clients busy for so long.
package integration
