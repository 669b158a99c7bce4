//! What the servers do.

/// Rows inserted, changed, deleted and locked, with indexes, sequences, large values, and rolled-back transactions.
pub const TABLES: &str = "
CREATE TABLE accounts (id serial PRIMARY KEY, owner text, balance numeric, note text);
INSERT INTO accounts (owner, balance) SELECT 'owner ' || i % 100, i FROM generate_series(1, 20000) i;
CREATE INDEX accounts_owner ON accounts (owner);
UPDATE accounts SET balance = balance + 1 WHERE id % 3 = 0;
UPDATE accounts SET owner = owner || ' of ' || id, note = repeat('x', 40) WHERE id % 7 = 0;
DELETE FROM accounts WHERE id % 11 = 0;
INSERT INTO accounts (id, owner) VALUES (1, 'again') ON CONFLICT (id) DO UPDATE SET note = 'conflict';
INSERT INTO accounts (id, owner) VALUES (11, 'fresh') ON CONFLICT (id) DO UPDATE SET note = 'conflict';
BEGIN; UPDATE accounts SET balance = 0; ROLLBACK;
BEGIN; CREATE TABLE never (i int); INSERT INTO never SELECT generate_series(1, 5000); ROLLBACK;
BEGIN; SELECT * FROM accounts WHERE id < 50 FOR UPDATE; COMMIT;
CREATE TABLE large (id int, value text);
INSERT INTO large SELECT i, (SELECT string_agg(md5(i::text || j::text), '') FROM generate_series(1, 300) j)
    FROM generate_series(1, 40) i;
UPDATE large SET value = value || 'more' WHERE id % 2 = 0;
CREATE SEQUENCE numbers CACHE 5;
SELECT nextval('numbers') FROM generate_series(1, 100);
SELECT setval('numbers', 5000);
ALTER SEQUENCE numbers RESTART WITH 7;
SELECT nextval('numbers');
CREATE TABLE parts (id int, day int) PARTITION BY RANGE (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
INSERT INTO parts SELECT i, i % 20 FROM generate_series(1, 3000) i;
UPDATE parts SET day = 19 - day WHERE id % 5 = 0;
CREATE TABLE dropped AS SELECT generate_series(1, 3000) i;
CREATE INDEX ON dropped (i);
DROP TABLE dropped;
CREATE TEMP TABLE scratch AS SELECT generate_series(1, 1000) i;
CHECKPOINT;
ALTER TABLE accounts ADD COLUMN extra int DEFAULT 5;
ALTER TABLE accounts ALTER COLUMN id TYPE bigint;
COPY accounts (owner, balance) FROM PROGRAM 'seq -f \"copied %g,1\" 1 5000' WITH (FORMAT csv);
";

/// Subtransactions kept and rolled back; enough of them for a second page of the commit log, and many of the commit
/// timestamps.
pub const SUBTRANSACTIONS: &str = "
CREATE TABLE nested (i int);
BEGIN; INSERT INTO nested VALUES (1); SAVEPOINT a; INSERT INTO nested VALUES (2); ROLLBACK TO a;
SAVEPOINT b; INSERT INTO nested VALUES (3); RELEASE b; COMMIT;
DO $$ BEGIN FOR i IN 1..36000 LOOP
    BEGIN INSERT INTO nested VALUES (i); IF i % 10 = 0 THEN RAISE division_by_zero; END IF;
    EXCEPTION WHEN division_by_zero THEN NULL; END;
END LOOP; END $$;
DO $$ BEGIN FOR i IN 1..500 LOOP
    BEGIN INSERT INTO nested VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END;
END LOOP; RAISE EXCEPTION SQLSTATE '22012'; EXCEPTION WHEN division_by_zero THEN NULL; END $$;
DROP TABLE nested;
";

/// Rows locked by a transaction and its subtransactions: a multixact each, for more than a page of offsets and several
/// of members.
pub const MULTIXACTS: &str = "
CREATE TABLE locked (id int PRIMARY KEY, v int);
INSERT INTO locked SELECT i, 0 FROM generate_series(1, 2600) i;
DO $$ BEGIN FOR i IN 1..2600 LOOP
    PERFORM 1 FROM locked WHERE id = i FOR KEY SHARE;
    BEGIN UPDATE locked SET v = v + 1 WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END;
END LOOP; END $$;
BEGIN; SELECT * FROM locked WHERE id < 5 FOR SHARE; SAVEPOINT a; SELECT * FROM locked WHERE id < 5 FOR UPDATE; COMMIT;
";

/// Vacuum with the visibility map, freezing, index pages deleted, tables truncated at the end, and grown again.
pub const VACUUM: &str = "
CREATE TABLE swept (id int PRIMARY KEY, filler text) WITH (fillfactor = 50);
INSERT INTO swept SELECT i, repeat('y', 200) FROM generate_series(1, 20000) i;
VACUUM (FREEZE) swept;
DELETE FROM swept WHERE id > 12000 OR id % 4 = 0;
UPDATE swept SET filler = 'short' WHERE id % 97 = 0;
SELECT * FROM swept WHERE id < 40 FOR UPDATE;
VACUUM swept;
INSERT INTO swept SELECT i, repeat('z', 300) FROM generate_series(30000, 34000) i;
VACUUM swept;
DELETE FROM swept;
VACUUM swept;
INSERT INTO swept SELECT i, 'back' FROM generate_series(1, 500) i;
VACUUM (FREEZE, ANALYZE);
TRUNCATE swept;
INSERT INTO swept SELECT i, 'again' FROM generate_series(1, 500) i;
BEGIN; TRUNCATE swept; INSERT INTO swept VALUES (1, 'gone'); ROLLBACK;
CLUSTER swept USING swept_pkey;
REINDEX TABLE swept;
VACUUM FULL swept;
";

/// Access methods besides the B-tree that log their pages their own way. A hash index grows by blocks of which only the
/// last one is logged, and the others stay zeroes until buckets are split.
pub const INDEXES: &str = "
CREATE EXTENSION bloom;
CREATE TABLE indexed (id int, owner text);
VACUUM indexed;
CREATE INDEX indexed_hash ON indexed USING hash (id) WITH (fillfactor = 10);
CREATE INDEX indexed_brin ON indexed USING brin (id, owner) WITH (pages_per_range = 1);
CREATE INDEX indexed_bloom ON indexed USING bloom (id);
INSERT INTO indexed SELECT i, 'owner ' || i FROM generate_series(1, 3000) i;
DELETE FROM indexed WHERE id % 3 = 0;
VACUUM indexed;
UPDATE indexed SET owner = owner || ' again' WHERE id % 50 = 1;
SELECT brin_desummarize_range('indexed_brin', 3);
CREATE UNLOGGED TABLE indexed_fast (id int);
CREATE INDEX indexed_fast_hash ON indexed_fast USING hash (id);
CREATE INDEX indexed_fast_brin ON indexed_fast USING brin (id);
";

/// Unlogged tables leave only their init forks, unless they become logged.
pub const UNLOGGED: &str = "
CREATE UNLOGGED TABLE fast (id serial PRIMARY KEY, v text);
INSERT INTO fast (v) SELECT 'v' FROM generate_series(1, 3000);
CREATE UNLOGGED TABLE slow (id int PRIMARY KEY);
INSERT INTO slow SELECT generate_series(1, 3000);
ALTER TABLE slow SET LOGGED;
CREATE TABLE undone (id int PRIMARY KEY);
INSERT INTO undone SELECT generate_series(1, 3000);
ALTER TABLE undone SET UNLOGGED;
CREATE UNLOGGED TABLE brief (id int);
DROP TABLE brief;
";

/// Prepared transactions that commit, roll back, and stay.
pub const TWO_PHASE: &str = "
CREATE TABLE prepared (i int);
CREATE TABLE doomed (i int PRIMARY KEY);
CREATE TABLE spared (i int PRIMARY KEY);
BEGIN; INSERT INTO prepared VALUES (1); SAVEPOINT a; INSERT INTO prepared VALUES (2); DROP TABLE doomed;
PREPARE TRANSACTION 'to commit';
BEGIN; INSERT INTO prepared VALUES (3); SAVEPOINT a; CREATE TABLE unborn (i int); DROP TABLE spared;
PREPARE TRANSACTION 'to roll back';
COMMIT PREPARED 'to commit';
ROLLBACK PREPARED 'to roll back';
BEGIN; INSERT INTO prepared VALUES (4); SAVEPOINT a; INSERT INTO prepared VALUES (5);
PREPARE TRANSACTION 'to stay';
";

/// A template with an index of every access method and visibility maps, copied through the log.
pub const COPIED_DATABASE: &str = "
CREATE DATABASE origin OID 20000 STRATEGY file_copy;
\\connect origin
CREATE TABLE ranged AS SELECT i, repeat('x', 100) AS filler, point(i, i) AS spot, ARRAY[i % 50] AS list
    FROM generate_series(1, 5000) i;
CREATE INDEX ON ranged USING btree (i);
CREATE INDEX ON ranged USING brin (i) WITH (pages_per_range = 4);
CREATE INDEX ON ranged USING hash (i);
CREATE INDEX ON ranged USING gist (spot);
CREATE INDEX ON ranged USING spgist (spot);
CREATE INDEX ON ranged USING gin (list);
CREATE SEQUENCE counted;
SELECT nextval('counted');
VACUUM (FREEZE);
\\connect postgres
CREATE DATABASE copy OID 20001 TEMPLATE origin STRATEGY wal_log;
";
/// The copy's object id.
pub const COPY: u32 = 20001;

/// Databases created in both ways, filled, used as a template, and dropped.
pub const DATABASES: &[&str] = &[
    "CREATE DATABASE by_wal STRATEGY wal_log;",
    "CREATE DATABASE by_file STRATEGY file_copy;",
    "CREATE DATABASE short_lived STRATEGY file_copy;",
    "CREATE DATABASE shorter_lived;",
    "\\connect by_wal\nCREATE TABLE t AS SELECT generate_series(1, 2000) i; CREATE UNLOGGED TABLE u (i int PRIMARY KEY);
     DELETE FROM t WHERE i > 10; VACUUM t;",
    "\\connect by_file\nCREATE TABLE t AS SELECT generate_series(1, 2000) i; VACUUM FULL pg_class;",
    "CREATE DATABASE from_wal TEMPLATE by_wal STRATEGY file_copy;",
    "CREATE DATABASE from_file TEMPLATE by_file STRATEGY wal_log;",
    "DROP DATABASE short_lived;",
    "DROP DATABASE shorter_lived;",
    "\\connect from_wal\nINSERT INTO t SELECT generate_series(1, 100);",
];

/// Relations and databases that are made in tablespaces, moved between them and dropped, and a tablespace that goes
/// too.
pub const TABLESPACES: &[&str] = &[
    "SET allow_in_place_tablespaces = on; CREATE TABLESPACE one LOCATION ''; CREATE TABLESPACE two LOCATION '';
     CREATE TABLESPACE unused LOCATION '';",
    "CREATE TABLE spaced (i int PRIMARY KEY USING INDEX TABLESPACE two, t text) TABLESPACE one;
     INSERT INTO spaced SELECT i, repeat('x', i % 100) FROM generate_series(1, 3000) i;
     CREATE UNLOGGED TABLE spaced_unlogged (i int) TABLESPACE one; VACUUM spaced;",
    "CREATE DATABASE spaced_by_wal TABLESPACE two STRATEGY wal_log;",
    "CREATE DATABASE spaced_by_file TABLESPACE one STRATEGY file_copy;",
    "CREATE DATABASE spaced_move;",
    "\\connect spaced_move\nCREATE TABLE t AS SELECT generate_series(1, 2000) i; CREATE TABLE u TABLESPACE two AS TABLE t;",
    "ALTER DATABASE spaced_move SET TABLESPACE one;",
    "ALTER TABLE spaced SET TABLESPACE two; ALTER TABLE spaced SET TABLESPACE one; UPDATE spaced SET t = 'y' WHERE i < 100;",
    "SET allow_in_place_tablespaces = on; CREATE TABLESPACE brief LOCATION '';
     CREATE TABLE brief_table TABLESPACE brief AS SELECT 1 i; DROP TABLE brief_table; DROP TABLESPACE brief;",
    "DROP DATABASE spaced_by_file;",
];

/// Catalogs whose files are found through relation maps, local and shared.
pub const RELATION_MAPS: &[&str] = &[
    "VACUUM FULL pg_class;",
    "VACUUM FULL pg_database;",
    "REINDEX TABLE pg_class;",
    "VACUUM FULL pg_authid; CREATE ROLE somebody;",
];

/// A transaction that is still running when the server crashes.
pub const LEFT_OPEN: &str = "
BEGIN; CREATE TABLE orphan (i int PRIMARY KEY); INSERT INTO orphan SELECT generate_series(1, 2000);
DELETE FROM accounts WHERE id % 2 = 0; SELECT pg_current_wal_flush_lsn(); CHECKPOINT;
";

/// Transactions that say where they come from, and progress that is set by hand.
pub const REPLICATION_ORIGINS: &str = "
CREATE TABLE replayed (i int);
SELECT pg_replication_origin_create('one'), pg_replication_origin_create('two'), pg_replication_origin_create('three');
SELECT pg_replication_origin_session_setup('one');
BEGIN; SELECT pg_replication_origin_xact_setup('1/ABCDE', now() - '1 day'::interval);
INSERT INTO replayed VALUES (1); COMMIT;
SELECT pg_replication_origin_session_reset();
SELECT pg_replication_origin_advance('two', '2/1000'), pg_replication_origin_advance('three', '3/1000');
SELECT pg_replication_origin_advance('two', '2/800');
SELECT pg_replication_origin_drop('three');
SELECT pg_logical_emit_message(true, 'quire', 'a message');
TRUNCATE replayed;
";

/// Moves the oldest transactions and multixacts of the cluster forward, so that old commit timestamps are removed.
pub const FREEZE_EVERYTHING: &[&str] = &[
    "UPDATE pg_database SET datallowconn = true;",
    "\\connect template0\nVACUUM (FREEZE);",
    "\\connect template1\nVACUUM (FREEZE);",
    "VACUUM (FREEZE);",
    "\\connect template0\nVACUUM (FREEZE) pg_class;",
];
