package worker

import "net/http"

// The handler of a worker without a main.
var handler http.Handler

// Handle sets the handler of a worker that is built with -buildmode=c-shared: its init functions run once, and the handler for each
// request. It is called in an init function.
//
// With `[instances] snapshot = true` in the worker's TOML, requests start from the state that the init functions left, without the
// start of Go's runtime.
func Handle(h http.Handler) {
	handler = h
}

// HandleFunc sets the handler of a worker that is built with -buildmode=c-shared; see [Handle].
func HandleFunc(h func(w http.ResponseWriter, r *http.Request)) {
	Handle(http.HandlerFunc(h))
}
