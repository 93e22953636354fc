#!/bin/sh
# Starts nginx, and says where Parley is: the proxy comes last, when everything behind it is ready.
set -eu
echo "Parley is ready: open http://localhost:${PUBLISHED_PORT:-8080} and choose any name." \
    "(Over HTTP/2, with a certificate of this machine's own: https://localhost:${PUBLISHED_TLS_PORT:-8443})"
exec nginx -c /opt/parley/nginx.conf -g "daemon off;"
