package worker

import (
	"bytes"
	"net/http"
)

// responseWriter collects what a handler answers.
type responseWriter struct {
	header http.Header
	// The headers as they were when the first byte was written; later changes do not count, as everywhere in net/http.
	sent   http.Header
	status int
	body   bytes.Buffer
}

func newResponse() *responseWriter {
	return &responseWriter{header: http.Header{}}
}

func (w *responseWriter) Header() http.Header { return w.header }

func (w *responseWriter) WriteHeader(status int) {
	// 1xx are no answers.
	if w.status != 0 || status < 200 {
		return
	}
	w.status = status
	w.sent = w.header.Clone()
}

func (w *responseWriter) Write(data []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(data)
}

func (w *responseWriter) WriteString(text string) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.WriteString(text)
}

// Flush does nothing: an answer is sent when the handler has returned. It is there for handlers that ask for it.
func (w *responseWriter) Flush() { w.WriteHeader(http.StatusOK) }
