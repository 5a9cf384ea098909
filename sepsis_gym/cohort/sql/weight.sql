-- One weight per stay for doses charted without it.
-- Inputs:  stays, inputevents, chartevents, items; variables weight_low, weight_high (kg)
-- Output:  stay_id, weight_kg, imputed: no plausible weight, the cohort's median by sex is used
WITH charted AS (
    SELECT stay_id, 1 AS preference, starttime AS time, patientweight AS kg FROM inputevents
    UNION ALL
    SELECT c.stay_id, 2, c.charttime, c.valuenum
    FROM chartevents c
    JOIN items i ON i.source = 'chartevents' AND i.itemid = c.itemid
    WHERE i.role = 'weight'
), own AS (
    SELECT stay_id, arg_min(kg, (preference, time, kg)) AS kg
    FROM charted
    WHERE kg BETWEEN getvariable('weight_low') AND getvariable('weight_high')
    GROUP BY stay_id
)
SELECT s.stay_id, o.kg IS NULL AS imputed,
    coalesce(o.kg, median(o.kg) OVER (PARTITION BY s.male), median(o.kg) OVER ()) AS weight_kg
FROM stays s
LEFT JOIN own o USING (stay_id)
