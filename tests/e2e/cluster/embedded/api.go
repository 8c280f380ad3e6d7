package embedded

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"weft.dev/cluster/plan"
	"weft.dev/cluster/render"
)

// api reads from the API server as the administrator.
type api struct {
	client *http.Client
	server string
}

func newAPI(paths render.Paths, server string) (*api, error) {
	ca, err := os.ReadFile(paths.Cert("ca"))
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(paths.Cert("admin"), paths.Key("admin"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", paths.Cert("ca"))
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}}
	return &api{client: &http.Client{Transport: transport, Timeout: 5 * time.Second}, server: server}, nil
}

func (a *api) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", path, response.Status, strings.TrimSpace(string(text)))
	}
	return text, nil
}

func (a *api) readyz(ctx context.Context) error {
	_, err := a.get(ctx, "/readyz")
	return err
}

// condition is one of an object's conditions.
type condition struct {
	Type    string
	Status  string
	Message string
}

type conditioned struct {
	Metadata struct{ Name string }
	Status   struct{ Conditions []condition }
}

// requireCondition returns why an object does not have a condition, or nil.
func (a *api) requireCondition(ctx context.Context, path, kind string) error {
	text, err := a.get(ctx, path)
	if err != nil {
		return err
	}
	var object conditioned
	if err := json.Unmarshal(text, &object); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	for _, c := range object.Status.Conditions {
		if c.Type == kind && c.Status == "True" {
			return nil
		}
		if c.Type == kind {
			return fmt.Errorf("%s: %s is %s: %s", path, kind, c.Status, c.Message)
		}
	}
	return fmt.Errorf("%s has no condition %s yet", path, kind)
}

// waitReady waits until every node and every part of the cluster is ready.
func (r *run) waitReady(ctx context.Context) error {
	api, err := newAPI(r.paths, r.plan.Server())
	if err != nil {
		return err
	}
	wanted := []struct{ path, condition string }{
		{"/apis/apps/v1/namespaces/kube-system/deployments/coredns", "Available"},
		{"/apis/apps/v1/namespaces/metallb-system/deployments/controller", "Available"},
	}
	for n := 1; n <= r.state.Nodes; n++ {
		wanted = append(wanted, struct{ path, condition string }{"/api/v1/nodes/" + plan.NodeName(n), "Ready"})
	}
	for _, part := range wanted {
		err := r.wait(ctx, part.path, func() error { return api.requireCondition(ctx, part.path, part.condition) })
		if err != nil {
			return err
		}
	}
	return nil
}

// wait calls check until it succeeds. It gives up when a program exits, which `create` reports, or
// at the time limit.
func (r *run) wait(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		last := check()
		if last == nil {
			return nil
		}
		if r.ended() != nil {
			return fmt.Errorf("%s cannot become ready: %w", what, last)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w", what, readyTimeout, errors.Join(last, ctx.Err()))
		case <-tick.C:
		}
	}
}

// ended returns an error if a program has exited.
func (r *run) ended() error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, process := range r.processes {
		if err := process.Ended(); err != nil {
			return err
		}
	}
	return nil
}
