// Package exit has the errors that choose the exit code of the process. Any other
// error is exit code 1 with its message.
package exit

import "fmt"

// CodeError is an exit code without a message, as the command printed it.
type CodeError int

func (c CodeError) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// UsageError is a mistake in the arguments or in the environment: exit code 2.
type UsageError struct{ err error }

// Usage makes err a UsageError.
func Usage(err error) error { return UsageError{err} }

func (e UsageError) Error() string { return e.err.Error() }

// Unwrap returns the mistake.
func (e UsageError) Unwrap() error { return e.err }
