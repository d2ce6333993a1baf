#!/usr/bin/env python3
"""Makes a container image as an archive that `ctr images import` takes.

image.py OUT.tar NAME [--user UID:GID] [--entrypoint PROGRAM] [--env NAME=VALUE]... [--layer LAYER.tar]... [SRC:DST]...

Ready layers come first; the files make one more layer, with /tmp and a user
list. Needs no registry and no Docker.
"""

import argparse
import hashlib
import io
import json
import os
import tarfile

PASSWD = (
    b"root:x:0:0:root:/root:/sbin/nologin\n"
    b"nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
    b"nobody:x:65534:65534::/:/sbin/nologin\n"
)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def layer_of(files, path):
    """Writes a layer of SRC:DST files; what is executable stays so."""
    made = set()
    with tarfile.open(path, "w") as tar:

        def folder(name, mode=0o755):
            name = name.strip("/")
            if not name or name in made:
                return
            folder(os.path.dirname(name))
            made.add(name)
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)

        def add(name, data, mode):
            folder(os.path.dirname(name))
            info = tarfile.TarInfo(name.strip("/"))
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))

        folder("tmp", 0o1777)
        add("etc/passwd", PASSWD, 0o644)
        for file in files:
            source, _, target = file.partition(":")
            with open(source, "rb") as data:
                add(target, data.read(), 0o755)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("name")
    parser.add_argument("--user", default="65532:65532")
    parser.add_argument("--entrypoint")
    parser.add_argument("--env", action="append", default=["PATH=/usr/local/bin:/usr/bin:/bin"])
    parser.add_argument("--layer", action="append", default=[])
    parser.add_argument("files", nargs="*")
    told = parser.parse_intermixed_args()

    layers = list(told.layer)
    if told.files:
        layers.append(told.out + ".layer")
        layer_of(told.files, layers[-1])
    digests = [digest(layer) for layer in layers]
    run = {"User": told.user, "Env": told.env}
    if told.entrypoint:
        run["Entrypoint"] = [told.entrypoint]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in digests]},
        }
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps(
        [
            {
                "Config": config_name,
                "RepoTags": [told.name],
                "Layers": [f"{each}/layer.tar" for each in digests],
            }
        ]
    ).encode()
    with tarfile.open(told.out, "w") as tar:
        for each, layer in zip(digests, layers):
            tar.add(layer, f"{each}/layer.tar")
        for name, data in ((config_name, config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if told.files:
        os.remove(layers[-1])


if __name__ == "__main__":
    main()
