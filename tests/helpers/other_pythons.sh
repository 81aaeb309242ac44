#!/bin/sh
# Print the Pythons of this machine that the package is for, besides 3.11, the newest first: a path each.
for version in 3.13 3.12; do
    for python in "python$version" "$HOME/.pyenv/versions/$version".*/bin/python "$HOME"/.local/share/uv/python/cpython-"$version".*/bin/python; do
        # a shim of pyenv is on the path also where it starts nothing
        if found="$("$python" -c "import sys; assert '%d.%d' % sys.version_info[:2] == '$version'; print(sys.executable)" 2>/dev/null)"; then
            echo "$found"
            break
        fi
    done
done
