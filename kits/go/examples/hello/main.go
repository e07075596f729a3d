// The smallest worker.
package main

import (
	"fmt"
	"net/http"

	"wws/worker"
)

func main() {
	worker.ServeFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "Hello from Go at %s\n", r.URL.Path)
	})
}
