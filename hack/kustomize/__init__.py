"""kustomize, built from the Go module proxy: what `kubectl apply -k` renders the manifests with."""
