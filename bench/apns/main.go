// A stand-in for APNs that costs little: HTTP/2 over TLS that demands a client certificate, takes every push
// and answers 200 after a delay. The one in Python (tests/support/apns.py) knows Apple's rules, and takes more
// CPU than the worker that is measured.
//
// It prints its port when it listens, then for each line on its standard input the number of pushes so far.
// It ends when its standard input does.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

func main() {
	folder := flag.String("folder", ".", "where server.pem (certificate and key) and ca.pem are")
	delay := flag.Duration("delay", 50*time.Millisecond, "from a push to its answer")
	flag.Parse()
	pem, err := os.ReadFile(filepath.Join(*folder, "ca.pem"))
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		log.Fatal("ca.pem holds no certificate")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var pushes atomic.Int64
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			time.Sleep(*delay)
			w.Header().Set("apns-id", r.Header.Get("apns-id"))
			w.WriteHeader(http.StatusOK)
			pushes.Add(1)
		}),
		TLSConfig:         &tls.Config{ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert},
		ReadHeaderTimeout: 10 * time.Second,
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		asked := bufio.NewScanner(os.Stdin)
		for asked.Scan() {
			fmt.Println(pushes.Load())
		}
		os.Exit(0)
	}()
	key := filepath.Join(*folder, "server.pem")
	log.Fatal(server.ServeTLS(listener, key, key))
}
