// authorizer is an external authorization server for cluster tests: over HTTP, in the shape of
// oauth2-proxy, on port 8080, and over gRPC, by Envoy's published messages, on port 9000.
//
// Both allow a request whose cookie, or metadata of that name, says "session=USER", and tell the
// application of the user. Without one, HTTP answers with a redirect to a login page and gRPC with
// 401. A body that contains "forbidden" is denied with 403. The path /hang is never answered.
package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// user returns the user of the session that the cookies name.
func user(cookies string) string {
	for _, cookie := range strings.Split(cookies, ";") {
		if name, found := strings.CutPrefix(strings.TrimSpace(cookie), "session="); found {
			return name
		}
	}
	return ""
}

func overHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/hang") {
		<-r.Context().Done()
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := user(r.Header.Get("Cookie"))
	switch {
	case strings.Contains(string(body), "forbidden"):
		http.Error(w, "the body is forbidden", http.StatusForbidden)
	case name == "":
		http.SetCookie(w, &http.Cookie{Name: "csrf", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "return", Value: "2"})
		http.Redirect(w, r, "https://login.example.com/?rd="+url.QueryEscape(r.URL.RequestURI()), http.StatusFound)
	default:
		w.Header().Set("X-Auth-Request-User", name)
		w.Header().Set("X-Auth-Request-Path", r.URL.RequestURI())
	}
}

type overGRPC struct{}

func set(key, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{
		Header:       &core.HeaderValue{Key: key, Value: value},
		AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func denied(code envoytype.StatusCode, body string) *auth.CheckResponse {
	return &auth.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status:  &envoytype.HttpStatus{Code: code},
			Headers: []*core.HeaderValueOption{set("X-Denied-By", "authorizer")},
			Body:    body,
		}},
	}
}

func (overGRPC) Check(ctx context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	attributes := request.GetAttributes()
	asked := attributes.GetRequest().GetHttp()
	if strings.HasPrefix(asked.GetPath(), "/hang") {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if strings.Contains(asked.GetBody(), "forbidden") {
		return denied(envoytype.StatusCode_Forbidden, "the body is forbidden"), nil
	}
	name := user(asked.GetHeaders()["cookie"])
	if name == "" {
		return denied(envoytype.StatusCode_Unauthorized, "log in"), nil
	}
	return &auth.CheckResponse{
		Status: &status.Status{Code: int32(codes.OK)},
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers: []*core.HeaderValueOption{
				set("X-Auth-Request-User", name),
				set("X-Auth-Request-Path", asked.GetPath()),
				set("X-Auth-Principal", attributes.GetSource().GetPrincipal()),
			},
			HeadersToRemove:      []string{"cookie"},
			ResponseHeadersToAdd: []*core.HeaderValueOption{set("X-Authorized", "yes")},
		}},
	}, nil
}

func main() {
	listener, err := net.Listen("tcp", ":9000")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, overGRPC{})
	go func() { log.Fatal(server.Serve(listener)) }()
	log.Fatal(http.ListenAndServe(":8080", http.HandlerFunc(overHTTP)))
}
