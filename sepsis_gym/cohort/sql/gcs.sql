-- Total Glasgow coma score at each charting.
-- Inputs:  chart_readings
-- Output:  stay_id, time, gcs (3-15)
-- Rule:    an untestable verbal response (intubated) makes the total 15, also when it was charted
--          less than 6 h before and not since; other missing parts come from the row before if it
--          is less than 6 h old, else they are normal.
-- Source:  MIT-LCP/mimic-code, concept "gcs".
WITH rows_by_time AS (
    SELECT stay_id, time,
        max(value) FILTER (feature = 'gcs_eye') AS eye,
        max(CASE WHEN untestable THEN 0 ELSE value END) FILTER (feature = 'gcs_verbal') AS verbal,
        max(value) FILTER (feature = 'gcs_motor') AS motor
    FROM chart_readings
    WHERE feature IN ('gcs_eye', 'gcs_verbal', 'gcs_motor') AND in_range
    GROUP BY ALL
), with_before AS (
    SELECT a.*, b.eye AS eye_before, b.verbal AS verbal_before, b.motor AS motor_before
    FROM (SELECT *, lag(time) OVER (PARTITION BY stay_id ORDER BY time) AS before
          FROM rows_by_time) a
    LEFT JOIN rows_by_time b ON b.stay_id = a.stay_id AND b.time = a.before
        AND a.time - b.time < INTERVAL 6 HOUR
)
SELECT stay_id, time, CASE
        WHEN coalesce(verbal, verbal_before) = 0 THEN 15
        WHEN verbal_before = 0 THEN coalesce(motor, 6) + verbal + coalesce(eye, 4)
        ELSE coalesce(motor, motor_before, 6) + coalesce(verbal, verbal_before, 5)
            + coalesce(eye, eye_before, 4)
    END AS gcs
FROM with_before
