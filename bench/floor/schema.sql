create table jobs (
    id uuid primary key, conversation_id uuid not null, is_ended boolean not null default false
);
create table messages (
    id bigint generated always as identity primary key, conversation_id uuid not null, role text not null,
    content text not null
);
create index on messages (conversation_id, id);
create table journal (job_id uuid not null, first_seq integer not null, frames text not null, primary key (job_id, first_seq));
