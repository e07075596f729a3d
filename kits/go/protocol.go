package worker

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"unicode/utf8"
)

// What the server writes to standard input.
type input struct {
	URL        string            `json:"url"`
	Method     string            `json:"method"`
	Headers    map[string]string `json:"headers"`
	HeaderList [][2]string       `json:"header_list"`
	Body       string            `json:"body"`
	BodyBase64 bool              `json:"body_base64"`
	KV         map[string]string `json:"kv"`
	Params     map[string]string `json:"params"`
}

// What the server reads from standard output.
type output struct {
	Data    string         `json:"data"`
	Base64  bool           `json:"base64,omitempty"`
	Headers map[string]any `json:"headers"`
	Status  int            `json:"status"`
	// A pointer, since a namespace that became empty is not one that was left alone.
	KV *map[string]string `json:"kv,omitempty"`
}

func readRequest(stdin io.Reader) (*http.Request, map[string]string, error) {
	text, err := io.ReadAll(stdin)
	if err != nil {
		return nil, nil, err
	}
	var in input
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, nil, err
	}
	body := []byte(in.Body)
	if in.BodyBase64 {
		if body, err = base64.StdEncoding.DecodeString(in.Body); err != nil {
			return nil, nil, fmt.Errorf("the body: %w", err)
		}
	}
	cache, params := in.KV, in.Params
	if cache == nil {
		cache = map[string]string{}
	}
	if params == nil {
		params = map[string]string{}
	}
	ctx := withValues(context.Background(), cache, params)
	request, err := http.NewRequestWithContext(ctx, in.Method, in.URL, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	request.RequestURI = request.URL.RequestURI()
	if in.HeaderList != nil {
		for _, line := range in.HeaderList {
			request.Header.Add(line[0], line[1])
		}
	} else {
		for name, value := range in.Headers {
			request.Header.Set(name, value)
		}
	}
	// As net/http's server does it.
	if host := request.Header.Get("Host"); host != "" {
		request.Host = host
		request.Header.Del("Host")
	}
	return request, cache, nil
}

// cache is the namespace's new state, or nil if it is to stay as it is.
func writeResponse(stdout io.Writer, response *responseWriter, cache map[string]string) error {
	response.WriteHeader(http.StatusOK)
	out := output{
		Headers: make(map[string]any, len(response.sent)),
		Status:  response.status,
	}
	for name, values := range response.sent {
		if len(values) == 1 {
			out.Headers[name] = values[0]
		} else if len(values) > 1 {
			out.Headers[name] = values
		}
	}
	if cache != nil {
		out.KV = &cache
	}
	if body := response.body.Bytes(); utf8.Valid(body) {
		out.Data = string(body)
	} else {
		out.Data = base64.StdEncoding.EncodeToString(body)
		out.Base64 = true
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(out); err != nil {
		return err
	}
	_, err := stdout.Write(text.Bytes())
	return err
}
