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
// Datagrams of a UDP association are taken apart and put together in memory,
// see Datagram.
//
// A reader takes exactly its message from r and not a byte more, so that what
// a client sends early stays where the relay will find it. Every message is
// written with one Write.
//
// A message that ends early gives io.ErrUnexpectedEOF, or io.EOF if not one
// byte of it came; what breaks the format gives one of the Err values, to be
// told apart with errors.Is. Names and user ids are bounded by the length
// byte of the format, in SOCKS 4 by MaxName.
package socks
