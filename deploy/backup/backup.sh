#!/bin/sh
# Writes everything that Parley keeps into one file, while it runs: sh backup.sh FILE, or - for the standard output.
#
# Everything is in Postgres; RabbitMQ holds only who may run and what is on its way, and needs no backup. The file is
# as of the moment at which this began. Where Postgres is says the environment, as for psql: PGHOST, PGPORT, PGUSER,
# PGPASSWORD, PGDATABASE. The user must be a superuser or have BYPASSRLS, which services must not. Needs psql, pg_dump and
# pg_restore, of the server's version or newer.
set -eu
umask 077

target=${1:?usage: backup.sh FILE, or - for the standard output}
say() { echo "backup: $1" >&2; }

# Row level security would hide rows from others. pg_dump notices that too, but late, and with a riddle.
may=$(psql -XAtqc "select rolsuper or rolbypassrls from pg_roles where rolname = current_user")
[ "$may" = t ] || { say "this user sees not all rows: take a superuser, or one with BYPASSRLS"; exit 1; }

dump() {
    # A migration that holds a table is waited for, not for ever; nor does it wait for us: it tries again.
    pg_dump --format=custom --lock-wait-timeout=60s
}

if [ "$target" = - ]; then
    dump
    exit
fi

# Beside its place until it is whole, and read back to its end: a file with that name is a backup that can be restored.
part="$target.part"
trap 'rm -f "$part"' EXIT
trap 'exit 1' HUP INT TERM
dump > "$part"
pg_restore --file=/dev/null "$part"
sync "$part" 2>/dev/null || sync
mv "$part" "$target"
say "$(du -k "$target" | cut -f1) KiB in $target"
