package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// ErrorKind says why an outgoing request failed.
type ErrorKind uint8

// In the order of the guest interface.
const (
	InvalidRequest ErrorKind = iota
	InvalidRequestBody
	InvalidResponseBody
	// NotAllowed: the worker's TOML does not allow the host, the method, plain http, or the address.
	NotAllowed
	InternalError
	Timeout
	RedirectLoop
)

var kinds = [...]string{
	"invalid-request", "invalid-request-body", "invalid-response-body", "not-allowed", "internal-error", "timeout", "redirect-loop",
}

func (k ErrorKind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return "unknown-error"
}

// HttpError is an outgoing request that the server could not or would not send.
type HttpError struct {
	Kind    ErrorKind
	Message string
}

func (e *HttpError) Error() string { return e.Kind.String() + ": " + e.Message }

// SendHttpRequest sends a request through the server, which allows what the worker's TOML lists under
// [features.http_requests], and follows redirects. Errors of the server are of type *[HttpError].
func SendHttpRequest(request *http.Request) (*http.Response, error) {
	method := request.Method
	if method == "" {
		method = http.MethodGet
	}
	number := slices.Index(methods[:], method)
	if number < 0 {
		return nil, fmt.Errorf("worker: the method %s cannot be sent", method)
	}
	if request.URL == nil {
		return nil, errors.New("worker: the request has no URL")
	}
	var body []byte
	if request.Body != nil {
		var err error
		body, err = io.ReadAll(request.Body)
		request.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	var headers [][2]string
	if request.Host != "" && request.Host != request.URL.Host {
		headers = append(headers, [2]string{"Host", request.Host})
	}
	for name, values := range request.Header {
		for _, value := range values {
			headers = append(headers, [2]string{name, value})
		}
	}
	answer, err := send(int32(number), request.URL.String(), headers, body)
	if err != nil {
		return nil, err
	}
	response := &http.Response{
		Status:        fmt.Sprintf("%d %s", answer.status, http.StatusText(answer.status)),
		StatusCode:    answer.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        make(http.Header, len(answer.headers)),
		Body:          io.NopCloser(bytes.NewReader(answer.body)),
		ContentLength: int64(len(answer.body)),
		Request:       request,
	}
	for _, header := range answer.headers {
		response.Header.Add(header[0], header[1])
	}
	return response, nil
}

// Transport is [SendHttpRequest] for an http.Client:
//
//	client := http.Client{Transport: worker.Transport{}}
type Transport struct{}

// RoundTrip sends a request.
func (Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	return SendHttpRequest(request)
}

// The methods that can be sent, by their number in the guest interface.
var methods = [...]string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodHead,
}

type httpAnswer struct {
	status  int
	headers [][2]string
	body    []byte
}
