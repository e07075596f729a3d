// Package worker answers HTTP requests in WebAssembly: a handler of net/http becomes a worker of wws.
//
//	func main() {
//		worker.ServeFunc(func(w http.ResponseWriter, r *http.Request) {
//			fmt.Fprintf(w, "Hello from %s", r.URL.Path)
//		})
//	}
//
// A program answers one request and ends: what it keeps in variables is gone with it, unless it is built with [Handle] and the worker's
// TOML says otherwise. What is to last goes into the key/value
// store ([Cache]) or a directory.
package worker

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
)

// ContextKey is the type of the keys under which a request's context holds what the server gave.
type ContextKey string

const (
	// CacheKey is the key of the key/value namespace, a map[string]string; see [Cache].
	CacheKey ContextKey = "CACHE"
	// ParamsKey is the key of the route's parameters, a map[string]string; see [Params].
	ParamsKey ContextKey = "PARAMS"
)

// Cache returns the worker's key/value namespace as it was when the request came. What the handler changes in it, by assigning
// and by delete, is stored when the handler has returned; keys that it leaves alone keep what others write meanwhile.
func Cache(r *http.Request) map[string]string {
	cache, _ := r.Context().Value(CacheKey).(map[string]string)
	return cache
}

// Params returns the parameters of the route: a worker in [id].wasm has "id".
func Params(r *http.Request) map[string]string {
	params, _ := r.Context().Value(ParamsKey).(map[string]string)
	return params
}

// ServeFunc answers the request with a function; see [Serve].
func ServeFunc(handler func(w http.ResponseWriter, r *http.Request)) {
	Serve(http.HandlerFunc(handler))
}

// Serve answers the request with a handler. It is the last thing that a worker's main does.
//
// A handler that panics, or a program that ends by os.Exit or log.Fatal, gives the caller status 500; what was written to
// standard error is in the server's log.
func Serve(handler http.Handler) {
	if err := serve(handler, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func serve(handler http.Handler, stdin io.Reader, stdout io.Writer) error {
	request, cache, err := readRequest(stdin)
	if err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	before := maps.Clone(cache)
	response := newResponse()
	handler.ServeHTTP(response, request)
	if maps.Equal(before, cache) {
		cache = nil
	}
	if err := writeResponse(stdout, response, cache); err != nil {
		return fmt.Errorf("cannot write the response: %w", err)
	}
	return nil
}

func withValues(ctx context.Context, cache, params map[string]string) context.Context {
	ctx = context.WithValue(ctx, CacheKey, cache)
	return context.WithValue(ctx, ParamsKey, params)
}
