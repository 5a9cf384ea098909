-- Infusions and boluses of vasoactive drugs and fluids.
-- Inputs:  clif_doses, stays, items; variable hold_hours
-- Output:  as icu/inputevents, and open_ended: no row follows, so the end is assumed
-- Rule:    a rate holds until the next row of the same order and item; a stop or a dose of 0 ends
--          it, a row without a dose changes nothing. Where no row follows it ends after hold_hours.
--          Of several rows at one moment the highest running dose counts. Intermittent doses count
--          for fluids, all at once.
WITH states AS (
    SELECT hadm_id, med_order_id, itemid, time, bool_and(stops) AS stopped,
        arg_max(unit, (NOT stops, dose)) AS unit, arg_max(dose, (NOT stops, dose)) AS rate
    FROM (
        SELECT *, coalesce(action = 'stop', FALSE) OR coalesce(dose = 0, FALSE) AS stops
        FROM clif_doses
        WHERE continuous AND itemid IS NOT NULL AND hadm_id IN (SELECT hadm_id FROM stays)
    )
    WHERE stops OR dose IS NOT NULL
    GROUP BY hadm_id, med_order_id, itemid, time
), intervals AS (
    SELECT *, lead(time) OVER orders IS NULL AS open_ended,
        coalesce(lead(time) OVER orders, time + to_hours(getvariable('hold_hours'))) AS until
    FROM states
    WINDOW orders AS (PARTITION BY hadm_id, med_order_id, itemid ORDER BY time)
)
SELECT s.stay_id, i.itemid, i.time AS starttime, i.until AS endtime,
    CASE WHEN i.unit LIKE '%/hour' THEN i.rate * epoch(i.until - i.time) / 3600 END AS amount,
    split_part(i.unit, '/', 1) AS amountuom, i.rate, i.unit AS rateuom,
    NULL::DOUBLE AS patientweight, NULL::VARCHAR AS statusdescription,
    dense_rank() OVER (ORDER BY i.med_order_id) AS orderid, i.open_ended
FROM intervals i
JOIN stays s ON s.hadm_id = i.hadm_id AND i.time < s.outtime AND i.until > s.intime
WHERE NOT i.stopped
UNION ALL
SELECT s.stay_id, d.itemid, d.time, d.time, d.dose, d.unit, NULL, NULL, NULL, NULL,
    dense_rank() OVER (ORDER BY d.med_order_id), FALSE
FROM clif_doses d
JOIN items f ON f.source = 'inputevents' AND f.role = 'fluid' AND f.itemid = d.itemid
JOIN stays s ON s.hadm_id = d.hadm_id AND d.time >= s.intime AND d.time < s.outtime
WHERE NOT d.continuous AND d.action IS DISTINCT FROM 'not_given'
