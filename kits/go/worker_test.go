package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// answer runs a handler on a request and returns what the server would read.
func answer(t *testing.T, stdin string, handler http.HandlerFunc) map[string]any {
	t.Helper()
	var stdout strings.Builder
	if err := serve(handler, strings.NewReader(stdin), &stdout); err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal([]byte(stdout.String()), &answer); err != nil {
		t.Fatalf("%s: %v", stdout.String(), err)
	}
	return answer
}

const request = `{"url":"http://a.test:81/x/y?q=1%202","method":"POST","headers":{"host":"a.test:81","x-a":"1"},
	"body":"hé","kv":{"a":"1","b":"2"},"params":{"id":"7"}}`

func TestAHandlerSeesTheRequest(t *testing.T) {
	answer(t, request, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got := []any{r.Method, r.Host, r.URL.Path, r.RequestURI, r.FormValue("q"), r.Header, string(body), r.ContentLength,
			Cache(r), Params(r)}
		want := []any{"POST", "a.test:81", "/x/y", "/x/y?q=1%202", "1 2", http.Header{"X-A": {"1"}}, "hé", int64(3),
			map[string]string{"a": "1", "b": "2"}, map[string]string{"id": "7"}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		if _, ok := r.Context().Value(CacheKey).(map[string]string); !ok {
			t.Error("the context has no map under CacheKey")
		}
	})
}

func TestHeaderLinesAndBytesArrive(t *testing.T) {
	answer(t, `{"url":"http://a/","method":"PUT","headers":{"x-a":"1, 2"},"header_list":[["x-a","1"],["x-a","2"]],
		"body":"/wA=","body_base64":true}`, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != "\xff\x00" || !reflect.DeepEqual(r.Header.Values("X-a"), []string{"1", "2"}) {
			t.Errorf("body %q, headers %v", body, r.Header)
		}
		if Cache(r) == nil || Params(r) == nil {
			t.Error("maps must be there even if the server sends none")
		}
	})
}

func TestTheAnswerIsWhatTheHandlerWrote(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"nothing": {func(http.ResponseWriter, *http.Request) {}, `{"data":"","headers":{},"status":200}`},
		"text and headers": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("x-b", "1")
			w.Header().Add("x-b", "<2>")
			w.WriteHeader(103)
			w.WriteHeader(201)
			w.Header().Set("x-late", "1")
			w.WriteHeader(500)
			fmt.Fprint(w, "a\"é🦀\x00")
		}, `{"data":"a\"é🦀\u0000","headers":{"X-B":["1","<2>"]},"status":201}`},
		"bytes": {func(w http.ResponseWriter, r *http.Request) { w.Write([]byte{255, 0}) },
			`{"data":"/wA=","base64":true,"headers":{},"status":200}`},
		"changed store": {func(w http.ResponseWriter, r *http.Request) {
			Cache(r)["a"] = "3"
			delete(Cache(r), "b")
		}, `{"data":"","headers":{},"status":200,"kv":{"a":"3"}}`},
		"emptied store": {func(w http.ResponseWriter, r *http.Request) { clear(Cache(r)) },
			`{"data":"","headers":{},"status":200,"kv":{}}`},
	} {
		t.Run(name, func(t *testing.T) {
			var want map[string]any
			if err := json.Unmarshal([]byte(test.want), &want); err != nil {
				t.Fatal(err)
			}
			if got := answer(t, request, test.handler); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestBadInputIsAnError(t *testing.T) {
	for _, stdin := range []string{"", "{", `{"url":3}`, `{"url":"http://a/","method":"A B"}`, `{"url":"http://[/","method":"GET"}`,
		`{"url":"http://a/","method":"GET","body":"%","body_base64":true}`} {
		handler := func(http.ResponseWriter, *http.Request) { t.Errorf("%s reached the handler", stdin) }
		if err := serve(http.HandlerFunc(handler), strings.NewReader(stdin), io.Discard); err == nil {
			t.Errorf("%s is no error", stdin)
		}
	}
}

func TestErrorsOfOutgoingRequests(t *testing.T) {
	get, err := http.NewRequest("", "http://a.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = SendHttpRequest(get)
	var failure *HttpError
	if !errors.As(err, &failure) || failure.Kind != InternalError {
		t.Error(err)
	}
	if text := (&HttpError{NotAllowed, "no"}).Error(); text != "not-allowed: no" {
		t.Error(text)
	}
	if text := ErrorKind(200).String(); text != "unknown-error" {
		t.Error(text)
	}
	get.Method = "TRACE"
	if _, err := SendHttpRequest(get); err == nil || !strings.Contains(err.Error(), "TRACE") {
		t.Error(err)
	}
	// As an http.Client's transport.
	client := http.Client{Transport: Transport{}}
	if _, err := client.Get("http://a.test/"); !errors.As(err, &failure) {
		t.Error(err)
	}
}

func FuzzServe(f *testing.F) {
	f.Add(request)
	f.Fuzz(func(t *testing.T, stdin string) {
		_ = serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		}), strings.NewReader(stdin), io.Discard)
	})
}
