package main

import (
	"context"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// newEtcd returns the command of a single-member etcd for tests: it does not fsync, so data is lost
// on power failure.
func newEtcd(ctx context.Context) *cobra.Command {
	var dataDir, client, peer string
	command := &cobra.Command{
		Use:          "etcd",
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			return runEtcd(ctx, dataDir, client, peer)
		},
	}
	command.Flags().StringVar(&dataDir, "data-dir", "", "where to keep the data")
	command.Flags().StringVar(&client, "listen-client-url", "http://127.0.0.1:2379", "where clients connect")
	command.Flags().StringVar(&peer, "listen-peer-url", "http://127.0.0.1:2380", "where peers would connect")
	return command
}

func runEtcd(ctx context.Context, dataDir, client, peer string) error {
	clientURL, err := url.Parse(client)
	if err != nil {
		return fmt.Errorf("--listen-client-url: %w", err)
	}
	peerURL, err := url.Parse(peer)
	if err != nil {
		return fmt.Errorf("--listen-peer-url: %w", err)
	}
	config := embed.NewConfig()
	config.Dir = dataDir
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	server, err := embed.StartEtcd(config)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer server.Close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-server.Err():
		return err
	}
}
