-- Every vasoactive and fluid row in one unit, with the reason where it is left out.
-- Inputs:  stays, inputevents, items (role = drug name or 'fluid'; factor =
--          norepinephrine-equivalent weight or tonicity), weight; variables weight_low,
--          weight_high, rate_cap
-- Output:  stay_id, role, starttime, endtime, bolus (no rate and no duration: all at starttime);
--          rate (ug/kg/min, vasopressin units/h); equivalent (norepinephrine equivalents,
--          ug/kg/min, NULL for inotropes, capped at rate_cap); volume_ml (x tonicity);
--          dropped (NULL = kept), capped
WITH marked AS (
    SELECT *, row_number() OVER (PARTITION BY stay_id, orderid, itemid, starttime, endtime, amount,
        amountuom, rate, rateuom, patientweight, statusdescription) > 1 AS repeated
    FROM inputevents
    SEMI JOIN stays USING (stay_id)
), rows_in_units AS (
    SELECT e.*, i.role, i.factor, i.role <> 'fluid' AS drug, lower(e.rateuom) AS unit,
        CASE WHEN e.patientweight BETWEEN getvariable('weight_low') AND getvariable('weight_high')
            THEN e.patientweight ELSE w.weight_kg END AS kg,
        CASE lower(e.amountuom) WHEN 'ml' THEN 1 WHEN 'l' THEN 1000
            WHEN 'meq' THEN CASE i.unit WHEN '1 mEq/mL' THEN 1 END END * e.amount AS ml,
        coalesce(e.endtime > e.starttime, FALSE) AS lasts
    FROM marked e
    JOIN items i ON i.source = 'inputevents' AND i.itemid = e.itemid
    JOIN weight w USING (stay_id)
), doses AS (
    SELECT *, e.rate * CASE  -- the unit decides, never the size of the number
            WHEN role = 'vasopressin' THEN CASE unit WHEN 'units/hour' THEN 1
                WHEN 'units/min' THEN 60 END
            WHEN unit = 'mcg/kg/min' THEN 1
            -- with a patientweight of 1 the number is in mcg/kg/min already
            WHEN unit = 'mg/kg/min' THEN CASE WHEN patientweight = 1 THEN 1 ELSE 1000 END
            WHEN unit = 'mcg/min' THEN 1 / kg
            WHEN unit = 'ng/kg/min' THEN 0.001
        END AS dose
    FROM rows_in_units e
)
SELECT stay_id, role, starttime, endtime, NOT drug AND rate IS NULL AND NOT lasts AS bolus,
    CASE WHEN drug THEN dose END AS rate,
    -- least() would ignore the NULL of a drug without a weight
    CASE WHEN drug AND factor IS NOT NULL
        THEN least(dose * factor, getvariable('rate_cap')) END AS equivalent,
    coalesce(drug AND dose * factor > getvariable('rate_cap'), FALSE) AS capped,
    CASE WHEN NOT drug THEN ml * factor END AS volume_ml,
    CASE
        WHEN repeated THEN 'repeated'  -- the key is (orderid, itemid)
        WHEN lower(statusdescription) = 'rewritten' THEN 'cancelled'
        WHEN endtime > starttime + INTERVAL 30 DAY THEN 'too_long'
        WHEN (drug OR rate IS NOT NULL) AND NOT lasts
            THEN 'no_duration'
        WHEN drug AND rate IS NULL THEN 'no_rate'
        WHEN drug AND dose IS NULL OR NOT drug AND ml IS NULL THEN 'unknown_unit'
        -- the words NaN and inf read as numbers, and least() would turn them into the cap
        WHEN NOT isfinite(CASE WHEN drug THEN dose ELSE ml END) THEN 'not_finite'
        WHEN CASE WHEN drug THEN dose ELSE ml END <= 0 THEN 'not_positive'
    END AS dropped
FROM doses
