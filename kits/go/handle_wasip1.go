//go:build wasip1

package worker

import (
	"fmt"
	"os"
)

// The server calls it for each request.
//
//go:wasmexport wws_handle
func handle() {
	if handler == nil {
		fmt.Fprintln(os.Stderr, "worker: no handler: call worker.Handle in an init function")
		os.Exit(1)
	}
	Serve(handler)
}
