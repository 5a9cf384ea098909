-- Urine output; irrigant put in is charted positive and taken off. A row that stands twice is one.
-- Inputs:  stays, outputevents, items (factor -1 for irrigant in)
-- Output:  stay_id, charttime, volume_ml (may be negative)
SELECT o.stay_id, o.charttime, sum((i.factor * o.value)::DECIMAL(18, 6))::DOUBLE AS volume_ml
FROM (
    SELECT DISTINCT stay_id, charttime, itemid, value
    FROM outputevents
    SEMI JOIN stays USING (stay_id)
) o
JOIN items i ON i.source = 'outputevents' AND i.itemid = o.itemid
WHERE isfinite(o.value)  -- the words NaN and inf read as numbers
GROUP BY ALL
