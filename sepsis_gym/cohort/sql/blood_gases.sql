-- Arterial PaO2 / FiO2.
-- Inputs:  lab_readings, labevents, chart_readings, features; variable gas_fio2_item
-- Output:  subject_id, time, pao2_fio2 (mmHg); no row without a FiO2
-- Rule:    the FiO2 noted with the gas, else the last one charted in the 4 h before it.
-- Source:  MIT-LCP/mimic-code, concept "bg".
WITH noted AS (
    SELECT specimen_id, max(CASE WHEN valuenum > 1 THEN valuenum / 100 ELSE valuenum END) AS fio2
    FROM labevents
    WHERE itemid = getvariable('gas_fio2_item')
        AND (valuenum BETWEEN 20 AND 100 OR valuenum BETWEEN 0.2 AND 1)
    GROUP BY specimen_id
), charted AS (
    SELECT subject_id, time, max(value) AS fio2
    FROM chart_readings
    WHERE feature = 'fio2' AND in_range
    GROUP BY ALL
)
SELECT g.subject_id, g.drawn_at AS time, g.value / coalesce(n.fio2, c.fio2) AS pao2_fio2
FROM lab_readings g
LEFT JOIN noted n USING (specimen_id)
ASOF LEFT JOIN charted c ON c.subject_id = g.subject_id AND c.time <= g.drawn_at
WHERE g.feature = 'pao2' AND g.in_range AND g.usable
    AND (n.fio2 IS NOT NULL OR g.drawn_at - c.time <= INTERVAL 4 HOUR)
