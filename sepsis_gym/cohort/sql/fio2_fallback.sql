-- Inspired oxygen where nobody charted it: noted with a blood gas, else estimated from the flow.
-- Inputs:  stays, labevents, chartevents, items, oxygen_fio2 (device, litres, fio2); variables
--          gas_fio2_item, labs_at, fio2 ('charted': no row; 'noted': gases; 'estimated': both)
-- Output:  stay_id, time, value (fraction), rank (1 noted, 2 estimated)
-- Rule:    a flow goes with the last device charted in the 14 h before it, a cannula if there is
--          none; the estimate is that of the next flow of the table, the last one's above it. No
--          device means room air unless oxygen flows. Other devices set their oxygen: no estimate.
-- Source:  estimates of Komorowski et al. 2018 (AI Clinician).
WITH noted AS (
    SELECT s.stay_id,
        CASE getvariable('labs_at') WHEN 'reported' THEN greatest(l.charttime, coalesce(
            l.storetime, l.charttime)) ELSE l.charttime END AS time,
        CASE WHEN l.valuenum > 1 THEN l.valuenum / 100 ELSE l.valuenum END AS value
    FROM labevents l
    JOIN stays s USING (subject_id)
    WHERE l.itemid = getvariable('gas_fio2_item') AND getvariable('fio2') <> 'charted'
        AND (l.valuenum BETWEEN 21 AND 100 OR l.valuenum BETWEEN 0.21 AND 1)
), devices AS (
    SELECT c.stay_id, c.charttime AS time, min(trim(c.value)) AS device
    FROM chartevents c
    JOIN items i ON i.source = 'chartevents' AND i.itemid = c.itemid
    SEMI JOIN stays s ON s.stay_id = c.stay_id
    WHERE i.role = 'oxygen_device' AND c.value IS NOT NULL
    GROUP BY ALL
), flows AS (
    SELECT c.stay_id, c.charttime AS time, max(c.valuenum) AS litres
    FROM chartevents c
    JOIN items i ON i.source = 'chartevents' AND i.itemid = c.itemid
    SEMI JOIN stays s ON s.stay_id = c.stay_id
    WHERE i.role = 'oxygen_flow' AND c.valuenum BETWEEN 0 AND 100
    GROUP BY ALL
), settings AS (
    SELECT f.stay_id, f.time, f.litres,
        CASE WHEN f.time - d.time <= INTERVAL 14 HOUR THEN d.device END AS device
    FROM flows f
    ASOF LEFT JOIN devices d ON d.stay_id = f.stay_id AND d.time <= f.time
    UNION ALL
    SELECT d.stay_id, d.time, 0, d.device
    FROM devices d
    ANTI JOIN flows f ON f.stay_id = d.stay_id AND f.time = d.time
    WHERE d.device = 'None'
), widest AS (
    SELECT device, max(litres) AS litres FROM oxygen_fio2 GROUP BY device
), named AS (
    -- A device of 'None' with oxygen flowing is taken for a cannula, as is a missing one.
    SELECT * REPLACE (CASE WHEN device IS NULL OR device = 'None' AND litres > 0
        THEN 'Nasal cannula' ELSE device END AS device)
    FROM settings
)
SELECT stay_id, time, value, 1 AS rank FROM noted
UNION ALL
SELECT n.stay_id, n.time, o.fio2, 2
FROM (SELECT n.* REPLACE (least(n.litres, w.litres) AS litres)
      FROM named n JOIN widest w USING (device)) n
ASOF JOIN oxygen_fio2 o ON o.device = n.device AND o.litres >= n.litres
WHERE getvariable('fio2') = 'estimated'
