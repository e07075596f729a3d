// Every feature of a worker; kits/README.md says what each answers.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"wws/worker"
)

var calls int

var features = map[string]http.HandlerFunc{
	"hello": func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hello, %s!", r.URL.Query().Get("name"))
	},
	"vars": func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, os.Getenv("GREETING"))
	},
	"count": func(w http.ResponseWriter, r *http.Request) {
		cache := worker.Cache(r)
		count, _ := strconv.Atoi(cache["count"])
		cache["count"] = strconv.Itoa(count + 1)
		io.WriteString(w, cache["count"])
	},
	"forget": func(w http.ResponseWriter, r *http.Request) {
		delete(worker.Cache(r), "count")
		io.WriteString(w, "forgotten")
	},
	"keep": func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			worker.Cache(r)["kept"] = string(body(r))
		}
		io.WriteString(w, worker.Cache(r)["kept"])
	},
	"read":    read,
	"write":   write,
	"echo":    echo,
	"headers": headers,
	"status": func(w http.ResponseWriter, r *http.Request) {
		code := r.URL.Query().Get("code")
		status, err := strconv.Atoi(code)
		must(err)
		w.Header().Set("x-code", code)
		w.WriteHeader(status)
		io.WriteString(w, code)
	},
	"fetch": fetch,
	"fail": func(w http.ResponseWriter, r *http.Request) {
		panic("features: failed on purpose")
	},
	"log": func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(os.Stderr, "features: a líne in the log")
		io.WriteString(w, "logged")
	},
	"global": func(w http.ResponseWriter, r *http.Request) {
		calls++
		fmt.Fprint(w, calls)
	},
	"random": func(w http.ResponseWriter, r *http.Request) {
		bytes := make([]byte, 16)
		rand.Read(bytes)
		io.WriteString(w, hex.EncodeToString(bytes))
	},
	"loop": func(w http.ResponseWriter, r *http.Request) {
		for {
		}
	},
	"eat": func(w http.ResponseWriter, r *http.Request) {
		var eaten [][]byte
		for {
			eaten = append(eaten, make([]byte, 1<<20))
		}
	},
	"recurse": func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, recurse(1))
	},
}

func main() {
	worker.ServeFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "text/plain; charset=utf-8")
		name := worker.Params(r)["feature"]
		feature, ok := features[name]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(w, "no such feature: %s", name)
			return
		}
		feature(w, r)
	})
}

func read(w http.ResponseWriter, r *http.Request) {
	text, err := os.ReadFile("/data/in.txt")
	must(err)
	w.Write(text)
}

func write(w http.ResponseWriter, r *http.Request) {
	must(os.WriteFile("/data/out.txt", body(r), 0o644))
	text, err := os.ReadFile("/data/out.txt")
	must(err)
	w.Write(text)
}

func echo(w http.ResponseWriter, r *http.Request) {
	if kind := r.Header.Get("content-type"); kind != "" {
		w.Header().Set("content-type", kind)
	}
	w.Write(body(r))
}

func headers(w http.ResponseWriter, r *http.Request) {
	values := r.Header.Values("x-in")
	for _, value := range values {
		w.Header().Add("x-out", value)
	}
	w.Header().Add("set-cookie", "a=1")
	w.Header().Add("set-cookie", "b=2; Path=/")
	io.WriteString(w, strings.Join(values, "|"))
}

func fetch(w http.ResponseWriter, r *http.Request) {
	request, err := http.NewRequest(r.Method, r.URL.Query().Get("url"), r.Body)
	must(err)
	request.Header.Add("x-sent", "yes")
	request.Header.Add("x-sent", "again")
	response, err := worker.SendHttpRequest(request)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		io.WriteString(w, err.Error())
		return
	}
	for _, value := range response.Header.Values("x-from") {
		w.Header().Add("x-from", value)
	}
	w.WriteHeader(response.StatusCode)
	_, err = io.Copy(w, response.Body)
	must(err)
}

func body(r *http.Request) []byte {
	body, err := io.ReadAll(r.Body)
	must(err)
	return body
}

func recurse(depth int) int {
	return recurse(depth+1) + depth
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
