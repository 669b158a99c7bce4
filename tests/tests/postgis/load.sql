CREATE EXTENSION postgis;
CREATE TABLE shapes (id int PRIMARY KEY, kind text, shape geometry(Geometry, 4326)) WITH (fillfactor = 70);
CREATE FUNCTION place(i int, salt int) RETURNS float8 IMMUTABLE LANGUAGE sql AS
    $$ SELECT (hashint4(i * 7 + salt)::bigint + 2147483648) / 4294967296.0 * 60 $$;
INSERT INTO shapes SELECT i, 'point', ST_SetSRID(ST_MakePoint(place(i, 1), place(i, 2)), 4326) FROM generate_series(1, 60000) i;
INSERT INTO shapes SELECT i, 'line', ST_SetSRID(ST_MakeLine(ARRAY[
    ST_MakePoint(place(i, 1), place(i, 2)), ST_MakePoint(place(i, 1) + place(i, 3) / 100, place(i, 2) + 0.3),
    ST_MakePoint(place(i, 1) + 0.5, place(i, 2) + place(i, 4) / 100)]), 4326) FROM generate_series(60001, 80000) i;
INSERT INTO shapes SELECT i, 'area', ST_Buffer(ST_SetSRID(ST_MakePoint(place(i, 1), place(i, 2)), 4326), 0.05 + place(i, 3) / 600, 4)
    FROM generate_series(80001, 100000) i;
CREATE INDEX shapes_gist ON shapes USING gist (shape);
CREATE INDEX shapes_spgist ON shapes USING spgist (shape) WHERE kind = 'point';
CREATE INDEX shapes_brin ON shapes USING brin (shape) WITH (pages_per_range = 4);
CREATE TABLE roads AS SELECT id, shape::geography AS path FROM shapes WHERE kind = 'line';
CREATE INDEX roads_gist ON roads USING gist (path);
VACUUM ANALYZE;
CHECKPOINT;
