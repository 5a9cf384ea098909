-- Charted values of the dynamic features in the feature table's units.
-- Inputs:  chartevents, items, features
-- Output:  stay_id, subject_id, feature, time, value; repaired: entered as Celsius but
--          Fahrenheit; untestable: verbal response under intubation; in_range:
--          inside the feature's limits.
WITH typed AS (
    SELECT c.stay_id, c.subject_id, i.role AS feature, c.charttime AS time, c.valuenum AS raw,
        f.low, f.high,
        i.unit = 'fahrenheit' AS fahrenheit,
        i.role = 'temp_c' AND i.unit IS NULL AND c.valuenum > f.high AS repaired,
        i.role = 'gcs_verbal' AND trim(c.value) = 'No Response-ETT' AS untestable
    FROM chartevents c
    JOIN items i ON i.source = 'chartevents' AND i.itemid = c.itemid
    JOIN features f ON f.name = i.role
    WHERE c.valuenum IS NOT NULL
), converted AS (
    SELECT *, CASE
            WHEN coalesce(fahrenheit, FALSE) OR repaired THEN (raw - 32) / 1.8
            WHEN feature = 'fio2' AND raw >= 20 THEN raw / 100  -- charted in percent
            ELSE raw
        END AS value
    FROM typed
)
SELECT stay_id, subject_id, feature, time, value, repaired,
    coalesce(untestable, FALSE) AS untestable,
    value BETWEEN low AND high AS in_range
FROM converted
