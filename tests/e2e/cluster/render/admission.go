package render

const (
	// WebhookClient is the certificate that the API server shows to the injector, and its common name.
	WebhookClient = "kube-apiserver-webhook"
	// injector is the webhook's name as the API server looks it up.
	injector = "weft-injector.weft-system.svc"
)

// AdmissionConfig returns the file of --admission-control-config-file: with which certificates the
// API server calls webhooks.
func AdmissionConfig(paths Paths) ([]byte, error) {
	webhooks := object{
		"apiVersion":     "apiserver.config.k8s.io/v1",
		"kind":           "WebhookAdmissionConfiguration",
		"kubeConfigFile": paths.Webhooks(),
	}
	var plugins []object
	for _, name := range []string{"MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"} {
		plugins = append(plugins, object{"name": name, "configuration": webhooks})
	}
	return object{
		"apiVersion": "apiserver.config.k8s.io/v1",
		"kind":       "AdmissionConfiguration",
		"plugins":    plugins,
	}.json()
}

// WebhookKubeconfig returns the kubeconfig of AdmissionConfig: a user for each webhook that gets a
// certificate, named like its Service.
func WebhookKubeconfig(paths Paths) ([]byte, error) {
	return object{
		"apiVersion": "v1",
		"kind":       "Config",
		"users": []object{{"name": injector, "user": object{
			"client-certificate": paths.Cert(WebhookClient),
			"client-key":         paths.Key(WebhookClient),
		}}},
	}.json()
}
