#!/bin/sh
# Starts the official image's RabbitMQ with the users of definitions.json and the policies of policies.json; passwords come
# from files in /run/secrets. Nothing is written outside of /run/parley and the data folder.
set -eu

here=/opt/parley
given=/run/secrets
target=/run/parley/definitions

fill() {
    name=$1
    value=$(cat "$given/$name" 2>/dev/null || true)
    case $value in
        "") echo "rabbitmq: $name is not set" >&2; exit 1 ;;
        # Others would have to be quoted in URLs and in JSON.
        *[!A-Za-z0-9._~-]*) echo "rabbitmq: $name may hold letters, digits and . _ ~ - only" >&2; exit 1 ;;
    esac
    sed -i "s|\${$name}|$value|" "$target/definitions.json"
}

umask 077
mkdir -p "$target"
for file in definitions policies; do
    sed "s|\${VHOST}|/|" "$here/$file.json" > "$target/$file.json"
done
fill RABBITMQ_PASSWORD
fill GATEWAY_RABBITMQ_PASSWORD
fill CHAT_WORKER_RABBITMQ_PASSWORD
fill PERSISTENCE_RABBITMQ_PASSWORD

export RABBITMQ_CONFIG_FILE="$here/rabbitmq.conf"
exec docker-entrypoint.sh rabbitmq-server
