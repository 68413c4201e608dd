"""Judges Kubernetes manifests without a cluster; see `docs/deploy.md`.

    kustomization.py  directories -> objects, the part of kustomize that deploy/k8s uses
    schemas.py        objects -> problems of shape; an unknown kind is a problem
    pods.py           every pod that objects bring about
    images.py security.py network.py references.py availability.py command_lines.py
                      objects -> problems of one subject each

A check takes all objects of one rendering and yields sentences; none means none.
"""
