-- Urine output; irrigant put in is charted positive and taken off.
-- Inputs:  outputevents, items (factor -1 for irrigant in)
-- Output:  stay_id, charttime, volume_ml (may be negative)
SELECT o.stay_id, o.charttime, sum((i.factor * o.value)::DECIMAL(18, 6))::DOUBLE AS volume_ml
FROM outputevents o
JOIN items i ON i.source = 'outputevents' AND i.itemid = o.itemid
WHERE o.value IS NOT NULL
GROUP BY ALL
