-- Charted values of the dynamic features in the feature table's units.
-- Inputs:  chartevents, items, features, stays; variables last_hour (later ones are not needed),
--          quirks
-- Output:  stay_id, subject_id, feature, time, value; repaired: entered as Celsius but
--          Fahrenheit; untestable: verbal response under intubation; in_range:
--          inside the feature's limits.
-- Quirks:  celsius_only, intubated_verbal_is_1.
WITH typed AS (
    SELECT c.stay_id, c.subject_id, i.role AS feature, c.charttime AS time, c.valuenum AS raw,
        f.low, f.high,
        i.unit = 'fahrenheit' AS fahrenheit,
        i.role = 'temp_c' AND i.unit IS NULL AND c.valuenum > f.high AS repaired,
        i.role = 'gcs_verbal' AND trim(c.value) = 'No Response-ETT' AS intubated
    FROM chartevents c
    JOIN items i ON i.source = 'chartevents' AND i.itemid = c.itemid
    JOIN features f ON f.name = i.role
    JOIN stays s USING (stay_id)
    WHERE c.valuenum IS NOT NULL AND c.charttime < s.intime + to_hours(getvariable('last_hour'))
        AND NOT (list_contains(getvariable('quirks'), 'celsius_only')
            AND i.unit IS NOT DISTINCT FROM 'fahrenheit')
), converted AS (
    SELECT *, CASE
            WHEN coalesce(fahrenheit, FALSE) OR repaired THEN (raw - 32) / 1.8
            WHEN feature = 'fio2' AND raw >= 20 THEN raw / 100  -- charted in percent
            WHEN intubated THEN 1
            ELSE raw
        END AS value
    FROM typed
)
SELECT stay_id, subject_id, feature, time, value, repaired,
    coalesce(intubated, FALSE)
        AND NOT list_contains(getvariable('quirks'), 'intubated_verbal_is_1') AS untestable,
    value BETWEEN low AND high AS in_range
FROM converted
