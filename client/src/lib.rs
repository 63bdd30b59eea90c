//! The Api of controllers and agents over a kube::Client, for parts that run apart from the API server.
