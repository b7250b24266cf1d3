"""What every gRPC door shares: the server on its socket, admission, the way from errors to status codes, redaction."""
