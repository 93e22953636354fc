#!/bin/sh
# Starts the official image's RabbitMQ with the users of definitions.json; their passwords come from the environment.
set -eu

here=/opt/parley
target=/etc/rabbitmq/parley

fill() {
    name=$1
    eval "value=\${$name:-}"
    case $value in
        "") echo "rabbitmq: $name is not set" >&2; exit 1 ;;
        # Others would have to be quoted in URLs and in JSON.
        *[!A-Za-z0-9._~-]*) echo "rabbitmq: $name may hold letters, digits and . _ ~ - only" >&2; exit 1 ;;
    esac
    sed -i "s|\${$name}|$value|" "$target/definitions.json"
}

umask 077
mkdir -p "$target"
sed "s|\${VHOST}|/|" "$here/definitions.json" > "$target/definitions.json"
fill RABBITMQ_PASSWORD
fill GATEWAY_RABBITMQ_PASSWORD
fill CHAT_WORKER_RABBITMQ_PASSWORD
fill PERSISTENCE_RABBITMQ_PASSWORD
chown -R rabbitmq:rabbitmq "$target"
mkdir -p /etc/rabbitmq/conf.d
install -m 644 "$here/rabbitmq.conf" /etc/rabbitmq/conf.d/20-parley.conf

# The server needs none of them.
unset RABBITMQ_PASSWORD GATEWAY_RABBITMQ_PASSWORD CHAT_WORKER_RABBITMQ_PASSWORD PERSISTENCE_RABBITMQ_PASSWORD
exec docker-entrypoint.sh rabbitmq-server
