"""What scripts/build_deb is made of: locked wheels in, a Debian package with a private Python environment out."""
