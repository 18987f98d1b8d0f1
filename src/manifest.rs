//! YAML files to API objects.
