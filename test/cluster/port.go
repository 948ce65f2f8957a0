//go:build unix

package cluster

import (
	"fmt"
	"net"
)

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on, and that the
// system gives to nobody who asks for any port for about a minute. A program
// that can listen on port 0 should.
func FreePort() (int, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	// A connection closed by our side first leaves the port in TIME_WAIT, which
	// bars it from automatic choice but not from being listened on by name.
	address := l.Addr().(*net.TCPAddr)
	client, err := net.DialTCP("tcp4", nil, address)
	if err != nil {
		return 0, fmt.Errorf("reserve a port: %w", err)
	}
	defer func() { _ = client.Close() }()
	server, err := l.Accept()
	if err != nil {
		return 0, fmt.Errorf("reserve a port: %w", err)
	}
	if err := server.Close(); err != nil {
		return 0, fmt.Errorf("reserve a port: %w", err)
	}
	return address.Port, nil
}
