// SPDX-License-Identifier: Apache-2.0

// Package nettest is what tests of the data plane put around a worker's loop: Clock is the kernel with a time that only the test moves, Peer the test's end
// of a connection, Backend a host that connections can be made to, and Frames speaks HTTP/2 with an implementation that is not ours.
//
// Everything is owned by one test and used on its goroutine; descriptors are closed when the test ends. What fails ends the test.
package nettest
