// A worker that is initialised once: build it with -buildmode=c-shared.
package main

import (
	"fmt"
	"net/http"
	"regexp"

	"wws/worker"
)

var (
	number   = regexp.MustCompile(`[0-9]+`)
	requests int
)

func init() {
	worker.HandleFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		w.Header().Set("content-type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "request %d of this instance: %q\n", requests, number.FindString(r.URL.Path))
	})
}

func main() {}
