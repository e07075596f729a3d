// What Prometheus and its adapter do for deploy/kubernetes/metrics/hpa.yaml: custom.metrics.k8s.io with the metric
// wws_slots_used_percent of pods, read from their own /metrics at each request, by the rule of docs/operate/metrics.md.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
)

const (
	metric      = "wws_slots_used_percent"
	metricsAPI  = "custom.metrics.k8s.io"
	metricsPort = "9090"
)

func newPodMetricsCommand() *cobra.Command {
	var kubeconfig, address string
	command := &cobra.Command{
		Use:          "pod-metrics",
		SilenceUsage: true,
		RunE:         func(*cobra.Command, []string) error { return servePodMetrics(kubeconfig, address) },
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "who may list pods")
	command.Flags().StringVar(&address, "address", "127.0.0.1:6444", "where it listens, with a certificate of its own")
	return command
}

func servePodMetrics(kubeconfig, address string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	certificate, key, err := cert.GenerateSelfSignedCertKey("pod-metrics", nil, nil)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	version := metricsAPI + "/v1beta2"
	handler := http.NewServeMux()
	handler.HandleFunc("GET /apis/"+version, func(w http.ResponseWriter, _ *http.Request) {
		write(w, object{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": []object{{
			"name": "pods/" + metric, "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": []string{"get"},
		}}})
	})
	path := "GET /apis/" + version + "/namespaces/{namespace}/pods/*/" + metric
	handler.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		namespace := r.PathValue("namespace")
		options := metav1.ListOptions{LabelSelector: r.URL.Query().Get("labelSelector")}
		pods, err := client.CoreV1().Pods(namespace).List(r.Context(), options)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		items := []object{}
		for _, pod := range pods.Items {
			used, err := usedPercent(pod.Status.PodIP)
			if err != nil {
				fmt.Printf("%s: %v\n", pod.Name, err)
				continue
			}
			items = append(items, object{
				"describedObject": object{"kind": "Pod", "namespace": namespace, "name": pod.Name, "apiVersion": "/v1"},
				"metric":          object{"name": metric},
				"timestamp":       time.Now().UTC().Format(time.RFC3339),
				"value":           strconv.Itoa(used),
			})
		}
		fmt.Println(len(items), "pods:", items)
		write(w, object{"kind": "MetricValueList", "apiVersion": version, "metadata": object{}, "items": items})
	})
	server := http.Server{Addr: address, Handler: handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	return server.ListenAndServeTLS("", "")
}

type object map[string]any

func write(w http.ResponseWriter, value object) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

// The part of a server's places that is taken, in percent.
func usedPercent(ip string) (int, error) {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + net.JoinHostPort(ip, metricsPort) + "/metrics")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if name, value, found := strings.Cut(lines.Text(), " "); found && strings.HasPrefix(name, "wws_slots") {
			values[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	if values["wws_slots"] == 0 {
		return 0, fmt.Errorf("no wws_slots among the metrics")
	}
	return int(100 * values["wws_slots_in_use"] / values["wws_slots"]), lines.Err()
}
