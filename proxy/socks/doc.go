// Package socks reads and writes the messages of SOCKS 5 (RFC 1928), its
// username/password method (RFC 1929), SOCKS 4 and SOCKS 4a. It knows bytes
// only: no sockets, deadlines or decisions.
//
// The dialogue, client on the left:
//
//	SOCKS 5                            SOCKS 4, 4a
//	Opening (greeting)     ->          Opening (request)      ->
//	                       <- Method                          <- Reply
//	Credentials            ->
//	                       <- Auth     both only with method Username
//	Request                ->
//	                       <- Reply
//
// Datagrams of a UDP association are parsed and built in memory, see Datagram.
//
// A reader reads exactly its message from r and not a byte more. If a client sends
// data early, the relay still finds it there. Every message is written with one Write.
//
// If a message ends early, the error is io.ErrUnexpectedEOF, or io.EOF if it has no
// byte. If a message is malformed, the error is one of the Err values, see errors.Is. The
// length byte of the format bounds names and user ids. In SOCKS 4, MaxName does.
package socks
