package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// tlsFiles are the certificates to trust, and our own.
type tlsFiles struct {
	ca, cert, key string // PEM files, "" for the system's authorities and for no certificate
	skipVerify    bool
}

// config reads the files. It is called for each connection, because certificates
// are renewed while processes run.
func (f tlsFiles) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.skipVerify}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("option ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("option ca: %s holds no certificate in PEM form", f.ca)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("options cert and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// link is one connection to one server, logged in. A broken link stays broken, because
// its client cannot dial again.
type link struct {
	net    net.Conn
	client *redis.Client
	redis  *redis.Conn
}

var errBroken = errors.New("the connection is broken")

// connect dials a server and logs in. ctx bounds both.
func (l *location) connect(ctx context.Context, addr string, who login, db int) (*link, error) {
	user, password, err := who.read()
	if err != nil {
		return nil, err
	}
	raw, err := l.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return l.over(raw, addr, user, password, db), nil
}

// over returns a client on a connection, with bounds on what it reads.
func (l *location) over(raw net.Conn, addr, user, password string, db int) *link {
	var taken atomic.Bool
	client := redis.NewClient(&redis.Options{
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errBroken
			}
			return &boundedConn{Conn: raw}, nil
		},
		Addr: addr, Username: user, Password: password, DB: db, ClientName: l.client, Protocol: l.protocol,
		MaxRetries:      -1, // a silent retry would hide an unknown outcome
		DialerRetries:   1,
		PoolSize:        2, // a pool that has failed as often as its size dials in the background
		ReadTimeout:     -1,
		WriteTimeout:    -1,
		DisableIdentity: true, // fewer commands for the ACL to allow

		ContextTimeoutEnabled:    true, // the caller's time limit is the only one
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	return &link{net: raw, client: client, redis: client.Conn()}
}

func (l *location) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	switch {
	case l.scheme == "unix":
		return d.DialContext(ctx, "unix", addr)
	case !l.form.tls:
		return d.DialContext(ctx, "tcp", addr)
	}
	config, err := l.files.config()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{NetDialer: &d, Config: config}).DialContext(ctx, "tcp", addr)
}

// Close is idempotent. The client closes the connection if it ever took it.
func (l *link) Close() error {
	err := errors.Join(l.redis.Close(), l.client.Close())
	l.net.Close()
	return err
}
