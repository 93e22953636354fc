#!/bin/sh
# Brings what backup.sh wrote into an empty database: sh restore.sh FILE, or - for the standard input.
#
# All of it or nothing. Where Postgres is says the environment, as for backup.sh; the user becomes the owner of the tables,
# and has to have the name of the owner of before. Afterwards run `python -m shared.db.migrate`, as with every start: it gives
# the services' roles their passwords. Until then none of them can log in. RabbitMQ has to be empty, see
# docs/operations.md, Backup and restore.
set -eu

source=${1:?usage: restore.sh FILE, or - for the standard input}
say() { echo "restore: $1" >&2; }
ask() { psql -XAtq -v ON_ERROR_STOP=1 -c "$1"; }

tables=$(ask "select count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')")
[ "$tables" = 0 ] || { say "the database holds $tables tables: restore into an empty one"; exit 1; }

# What the tables are granted to, and what a backup of one database does not hold: roles are the server's.
for role in parley_gateway parley_worker parley_persistence parley_tools; do
    ask "do \$\$ begin
             if not exists (select from pg_roles where rolname = '$role') then create role $role nologin; end if;
         end \$\$"
done

[ "$source" = - ] || exec < "$source"
pg_restore --single-transaction --exit-on-error --no-owner --dbname="$(ask "select current_database()")"

# Rights on the database itself are no part of it either; and the planner knows nothing of the new tables.
ask "do \$\$ begin execute format('revoke temporary on database %I from public', current_database()); end \$\$"
ask "analyze"
say "$(ask "select format('%s conversations, %s responses, of which %s go on', (select count(*) from conversations),
            (select count(*) from jobs), (select count(*) from jobs where status in ('queued', 'in_progress')))")"
