"""The OpenAPI document: `/api/schema`, its page `/api/docs`, and docs/openapi.yaml, which `make openapi` writes."""
