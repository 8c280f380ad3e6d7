// Go's net/http as an application of the cluster tests: answers as server.py does.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
)

var large = bytes.Repeat([]byte("weft"), 262144)

func answer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	sum := 0
	for _, b := range body {
		sum += int(b)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Add("Set-Cookie", "a=1")
	w.Header().Add("Set-Cookie", "b=2")
	switch r.URL.Path {
	case "/empty":
		w.WriteHeader(http.StatusNoContent)
	case "/large":
		_, _ = w.Write(large)
	default:
		fmt.Fprintf(w, "%s %s %d %d %d\n", r.Method, r.RequestURI, len(r.Header["Cookie"]), len(body), sum%65521)
	}
}

func main() {
	panic(http.ListenAndServe(":8080", http.HandlerFunc(answer)))
}
